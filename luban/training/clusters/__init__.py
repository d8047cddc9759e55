"""Machines that a run may be planned for, each a YAML file: `laptop` is this one, others need not be at hand."""
