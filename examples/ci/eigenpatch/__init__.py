"""A tokenizer of somebody's own."""
