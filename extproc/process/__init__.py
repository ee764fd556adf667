"""What each of the gateway's processes is made of, whatever it is for.

logs       one JSON object a line
beat       what is done again and again, at the same moments
files      replaced while others read them; `doorbell`: wakes the other processes when one was
memory     large pages, room for large bodies; `collector`: when garbage is looked for
http1      one small request, for probes and Envoy's admin interface
"""
