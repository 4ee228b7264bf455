"""The client library: for services that meter through Metergate, and for programs that operate it. Its public face is
`metergate`.

calls       BillingCalls: every operation of the API as a method, over whatever carries a request
errors      the ways that a call fails; which failures are worth another try, and when
client      Client: the calls on connections that it keeps, and the recorder of events
service     the calls of a service, typed, each repeated with its event's id; a hold as an `async with`; what a
            model's answer says that it used
recorder    events that are delivered in the background, and never lost silently; the file on disk where they wait
middleware  whose key a request of an aiohttp application shows; imported by itself, with aiohttp's server
"""
