"""What is done with a trained network: synthetic sets, test scores."""
