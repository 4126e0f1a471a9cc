"""Other formats of the same weights: OpenAI's TensorFlow checkpoints and Hugging Face's directories."""
