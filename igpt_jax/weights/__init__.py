"""Other formats of the same weights: OpenAI's TensorFlow checkpoints and Hugging Face's directories."""

PALETTE = "kmeans_centers.npy"
"""The file of colours beside the weights that OpenAI released."""
