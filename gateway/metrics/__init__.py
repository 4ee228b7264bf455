"""Metrics: counted cheaply in each worker, shown as one sum by whichever worker is asked.

registry   what is counted, and the text of it; a worker's counts as one value, and where workers show each other theirs
"""
