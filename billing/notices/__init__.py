"""Notices: what customers and operators are told of, by mail and by signed webhooks.

emit          emit: a notice, told if and only if its transaction is committed
letters       what there are notices of, and what mails of them say                     pure
signing       secrets of endpoints, and signatures by Standard Webhooks                pure
destinations  which addresses a delivery may go to, and the one request of a delivery
endpoints     endpoints of customers and operators, and what was delivered to them
exhausted     notices of quotas that are used up
worker        NoticeWorker: tells it, in one gateway of all
"""
