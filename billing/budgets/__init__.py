"""Budgets: sums that an account means to stay within. They notify, and refuse nothing: what refuses is a quota of cost.

budgets   what a budget is, its periods, the thresholds that are crossed, what will be spent by the end; Budgets: kept,
          measured by the ledger's sums, with notices by a round in one gateway of all
"""
