"""Payments: from "billing required" to paid and back, with any provider behind one port.

objects   what providers have, in neutral objects
port      what is asked of a payment provider, and its errors
"""
