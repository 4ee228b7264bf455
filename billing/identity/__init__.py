"""People: who signs in, which organizations they belong to, and what they may do there.

permissions    roles, and what each may do: one table, which the API also serves      pure
callers        Caller: who asks for something, and for which account                  pure
organizations  who owns an account: founded, named, listed
members        who belongs to one, with which role, and what ends with that
invitations    who may become a member, by an address
users          User, Users: who signs in, and what state they are in
passwords      which are taken; hashed and compared by Argon2id, few at once
visits         how many people may sign in at once                                    pure
codes          mailed codes and recovery codes; how often may be tried
totp           codes of authenticator apps                                            pure
letters        what mails say                                                         pure
people         who asks, what they show, what people are changed by: of the next two
sign_in        SignIn: registers, verifies and signs in, and tells nobody who is registered
credentials    Credentials: password, address and second factor are changed
mailer         Mailer: sends what waits, by SMTP or to a console
tokens         JSON Web Tokens: verified by a key and an algorithm that are given     pure
sealing        secrets that have to be read again, encrypted by a key that is given
signing_keys   the keys that sign our own tokens, and their rotation
shown          who shows a token, and what it is worth now
sessions       a sign-in, its access and refresh tokens, and their ends
browsers       Browsers: sessions that a cookie shows; links by which an operator begins one
issuers        what other issuers publish, kept for a while; which of their tokens are believed
oidc           signing in elsewhere: OpenID Connect, GitHub; providers  where, as configured
subjects       whom other issuers sign in, and which user that is
"""
