"""Made-up faces: the parts of one person, drawn one after the other."""
