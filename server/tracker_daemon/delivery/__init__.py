"""Delivery: for each run and backend a pump and a cursor. It alone retries, pauses and sets aside."""
