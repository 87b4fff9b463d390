"""What the model is made of: backbones, pixel decoder, query decoder, and their layers."""
