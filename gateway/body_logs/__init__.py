"""Logs of bodies: what requests ask and what their clients are answered, redacted, encrypted, in a folder or a bucket.
Off unless `body_logs` of metergate.yaml says where.

recording    which requests are recorded, what of them is kept in memory, and the queue of those that are over
rules        what must not be written, as patterns: presets and the operator's own; pure
redaction    rules on the texts of a body, and on its fields; pure
sealed_file  the format of a file: JSON Lines, compressed, encrypted in chunks; pure
places       a folder and a bucket, by days and accounts
writer       what waits is redacted, sealed and written; what is too old is removed
"""
