"""A model over HTTP: the OpenAI-compatible server, and pages for people."""
