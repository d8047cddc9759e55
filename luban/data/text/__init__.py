"""What can be counted in a text, once per batch in C++: the tables that filters set their thresholds on."""
