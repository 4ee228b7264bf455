"""Notices: what customers and operators are notified of, by mail and by signed webhooks.

emit            what there are notices of, what mails of them say; a notice, sent if and only if its transaction is
                committed; notices of quotas that are used up, once in a window
delivery        which addresses a delivery may go to, how it is signed by Standard Webhooks, and its one request
endpoints       endpoints of customers and operators, and what was delivered to them
worker          NoticeWorker: sends them, in one gateway of all
"""
