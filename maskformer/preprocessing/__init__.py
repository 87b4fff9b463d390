"""From images and label maps of any kind to what the network is given."""
