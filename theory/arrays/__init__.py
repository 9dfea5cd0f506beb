"""Arrays of NumPy, torch and enclosures under one namespace, and checks of arguments."""
