"""Budgets: sums that an account means to stay within. They tell, and refuse nothing: what refuses is a quota of cost.

rules     what a budget is, its periods, the thresholds that are crossed, what will be spent by the end    pure
budgets   Budgets: kept, measured by the ledger's sums, and told of by a round in one gateway of all
"""
