"""Processes: workers on one listening socket, and what each of them is made of.

supervisor   worker processes: started, started again when they die, stopped in order
worker       one of them; memory  how it uses it; ended  telling the others that one has ended
"""
