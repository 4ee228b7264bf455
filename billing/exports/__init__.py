"""Exports: what was used, told to other systems: at least once each, under an id by which a repetition is known.

events   a usage event on its way out: its properties, its charge in cents, its hour                pure
sinks    what an export's other side is to its worker; requests over HTTP, and what answers mean
lago     events to Lago; cloudevents  to any endpoint that takes CloudEvents
meters   Stripe's meters: sums by hour, of which each correction is told once
folder   files by hour: Parquet or CSV
cursor   how far each export is; what is parked
worker   ExportWorker: goes on from there, one gateway at a time
"""
