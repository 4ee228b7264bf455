"""What usage costs: price rows, and the arithmetic of a charge. Pure.

rows       PriceRow: what a provider's model costs from a day on, the cost of a usage by it, and its id
classes    what prices are by: classes of tokens, units, and the conditions of variants
variants   tiers and variants of a row, and the sheet of rates that holds for one request
scales     whole numbers for exact costs, markups and rounding
table      PriceTable: which row is in force
trials     a usage priced by hand
"""
