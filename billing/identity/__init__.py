"""People: who signs in, which organizations they belong to, and what they may do there.

organizations   who owns an account: founded, named, listed; who belongs to it, with which role; who is invited
directories     Directories: what a company's directory says of people: places for addresses, and rules for groups
users           User, Users: who signs in, and what state they are in; Subjects: whom other issuers sign in
passwords       which are taken; hashed and compared by Argon2id, few at once; how many people may sign in at once
codes           mailed codes, recovery codes and codes of authenticator apps; how often may be tried
credentials     People: passwords and second factors as they are checked; Credentials: as they are changed
sign_in         SignIn: registers, verifies and signs in, and tells nobody who is registered
mail_templates  what mails say                                                         pure
mailer          Mailer: sends what waits, by SMTP or to a console
tokens          JSON Web Tokens: verified by a key and an algorithm that are given; whom one is about; the keys that
                sign our own, and their rotation
signatures      what signs and verifies tokens, imported when the first one is asked for
encryption      secrets that have to be read again, encrypted by a key that is given
sessions        a sign-in, its access and refresh tokens, who shows one, and their ends
welcome         credit that a person is given once     devices  what a browser is called     pure
browsers        Browsers: sessions that a cookie shows; links by which an operator begins one
issuers         what other issuers publish, kept for a while; which of their tokens are believed
oidc            signing in elsewhere: OpenID Connect, GitHub
providers       where, as configured
"""
