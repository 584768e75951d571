"""Recorded episodes as one page that opens without a server."""
