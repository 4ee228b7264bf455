"""Notices: what customers and operators are told of, by mail and by signed webhooks.

emit  emit: a notice, told if and only if its transaction is committed
"""
