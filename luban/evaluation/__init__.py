"""What a model knows, measured through `luban.lm` only."""
