// Broadcasts from memory to the sockets of a group, which is the path that they connected to.
// JSON lines: {"updates", "first", "groups", "per_turn", "template"}; answers when it began, once all is handed to ws.
const http = require('node:http')
const readline = require('node:readline')
const { WebSocketServer } = require('ws')

const N_DIGITS = 7
const groups = new Map()

const server = http.createServer()
const sockets = new WebSocketServer({ server, perMessageDeflate: false, clientTracking: false })
sockets.on('connection', (socket, request) => {
  const group = request.url.slice(1)
  if (!groups.has(group)) groups.set(group, new Set())
  groups.get(group).add(socket)
  socket.on('close', () => groups.get(group).delete(socket))
})
server.listen({ port: 0, host: '127.0.0.1', backlog: 1024 }, () => say({ port: server.address().port }))

function broadcast({ updates, first, groups: names, per_turn: perTurn, template }) {
  const started = process.hrtime.bigint() // CLOCK_MONOTONIC, as Python's perf_counter
  let done = 0
  const turn = () => {
    for (let i = 0; i < perTurn && done < updates; i += 1, done += 1) {
      const name = names[done % names.length]
      const n = String(first + done).padStart(N_DIGITS, '0')
      const frame = Buffer.from(template.replace('%GROUP%', name).replace('%N%', n))
      for (const socket of groups.get(name)) socket.send(frame, { binary: false })
    }
    if (done < updates) setImmediate(turn)
    else say({ started_ns: Number(started) })
  }
  turn()
}

function say(answer) {
  process.stdout.write(JSON.stringify(answer) + '\n')
}

const lines = readline.createInterface({ input: process.stdin })
lines.on('line', (line) => broadcast(JSON.parse(line)))
lines.on('close', () => process.exit(0))
