config = {"type": "api", "name": "Known", "method": "POST", "path": "/known", "auth": "required", "emits": []}


def handler(req, context):
    return {"status": 200, "body": context.auth}
