"""Exports: what was used, published to other systems: at least once each, under an id by which a repetition is known.

events   a usage event on its way out: its properties, its charge in cents, its hour                pure
sinks    what an export's other side is to its worker; requests over HTTP, and what answers mean; CloudEvents
lago     events to Lago
meters   Stripe's meters: sums by hour, of which each correction is published once
folder   files by hour: Parquet or CSV
worker   how far each export is, and ExportWorker: continues from there, one gateway at a time; dead letters
"""
