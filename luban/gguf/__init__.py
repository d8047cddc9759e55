"""GGUF, the file of llama.cpp: model folders written as one, and made of one."""
