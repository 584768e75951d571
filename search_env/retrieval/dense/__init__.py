"""Dense retrieval: encoders from transformers folders, embeddings in files, FAISS indexes."""
