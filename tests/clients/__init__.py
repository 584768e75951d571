"""Short real runs of other libraries on the toy; each is skipped where its library is missing.

``python scripts/test_clients.py`` runs each in a virtual environment of its own.
"""
