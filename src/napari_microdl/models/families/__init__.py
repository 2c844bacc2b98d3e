"""What is known of each published model: shape, channels, input, licence, names of weights."""
