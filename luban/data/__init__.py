"""Raw text to batches: documents, cleaning, token shards, the loader, conversation rows."""
