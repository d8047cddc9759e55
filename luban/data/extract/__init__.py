"""Web pages to their main text: blocks of a page, what they look like, which of them are text."""
