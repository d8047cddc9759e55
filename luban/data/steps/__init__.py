"""The steps of the data factory, one file per family of rules; `STEPS` names them for recipes."""
