"""The serving engine: many requests, one model, pages of keys and values; docs/engine.md tells a request's life."""
