"""Processes: workers on one listening socket (`gateway.app` is one of them).

supervisor   worker processes: started, started again when they die, stopped in order; their ends announced
pages        pages and large reads in a process of their own, and how connections come there
"""
