"""What usage costs: price rows, and the arithmetic of a charge. Pure.

rows       PriceRow: what a provider's model costs from a day on, by class, tier and variant; the cost of a usage
scales     whole numbers for exact costs, markups and rounding
table      PriceTable: which row is in force; a usage priced by hand
"""
