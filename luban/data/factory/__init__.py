"""The data factory: a recipe's stages over all documents, in parallel, resumable, with every drop on record."""
