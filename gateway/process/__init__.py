"""Processes: workers on one listening socket, and what each of them is made of.

supervisor   worker processes: started, started again when they die, stopped in order
worker       one of them; memory, files  how it uses both; ended  telling the others that one has ended
runtime      everything that talks to the stores, made from settings
"""
