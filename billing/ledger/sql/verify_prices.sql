-- Every price row that has priced a debit.
SELECT id, said FROM prices
