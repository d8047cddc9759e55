"""n-gram language models: counting in bounded memory, modified Kneser-Ney, ARPA files, fast scoring."""
