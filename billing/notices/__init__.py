"""Notices: what customers and operators are notified of, by mail and by signed webhooks.

mail_templates  what there are notices of, and what mails of them say                     pure
formats         what a notice looks like where it is sent: JSON of our own, Slack, Teams, PagerDuty       pure
emit            emit: a notice, sent if and only if its transaction is committed
troubles        notices of what an operator should look at, once it lasts, and of its end
exhausted       notices of quotas that are used up, once in a window
delivery        which addresses a delivery may go to, how it is signed by Standard Webhooks, and its one request
endpoints       endpoints of customers and operators, and what was delivered to them
worker          NoticeWorker: sends them, in one gateway of all
"""
