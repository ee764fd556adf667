"""`GET /openapi.json`: the API as an OpenAPI 3.1 document, for clients, generators and tests.

operation   what is said of one operation
operations  all of them: the table that the routes, the roles' tests and the document are held to
answers     what each answers, as types
chat        requests and answers of the OpenAI-compatible endpoints
document    the document, made of these
"""
