"""What every run needs of the machine and the cluster below it."""
