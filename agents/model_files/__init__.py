"""Model files as they are found: folders of transformers, and ``.gguf`` files."""
