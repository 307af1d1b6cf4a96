"""Text: sentence pairs, documents, prompts; tokenizers; streams, windows and buckets of tokens."""
