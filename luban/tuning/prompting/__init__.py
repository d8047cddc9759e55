"""A model as it is, asked in a sentence, as a classifier of texts: the parts of the stage `prompt`."""
