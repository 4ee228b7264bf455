"""Collection: traffic that exporters count is pulled, becomes facts by minute, and is charged like any other usage.

snapshots   what an exporter is asked and answers, checked; how far a source was read, and how it is read on
facts       writing points, what follows from them and the checkpoint in one transaction; reading bytes; whose the
            traffic is: matched, made, or held until an operator says so
debits      what is due becomes debits: what all bytes of an account cost, less what was charged
collector   a run over all sources, and what the last runs came to
queries.sql  their statements; sql/  the two long ones

Points are the truth: what a counter said at a time. A point that is known is known; all else (growth, minutes, hours,
what is due) is a matter of the set of points, so that snapshots may come in any order, again, late, and in any pages.
Money is so, too: an account is charged what all of its bytes cost less what it was charged before.
"""
