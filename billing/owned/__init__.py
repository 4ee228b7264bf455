"""What accounts own at providers: objects that their requests created there.

objects   whose an object is: recorded before its client sees the id, and asked before a request that names one goes on;
          when old rows are deleted
jobs      work that goes on at a provider after it has answered: leased, paid once, and its debit
queries.sql  its statements
"""
