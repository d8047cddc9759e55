"""Text to ids and back: training, files in Hugging Face layout, chat templates."""
