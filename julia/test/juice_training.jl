# Juice's `mini_batch_em` on its own nodes: what its kernels compute on CUDA, row by row.

"The logarithms of an input node's or a sum node's probabilities, to be changed in place."
log_params(node) = Juice.isinput(node) ? Juice.dist(node).logps : Juice.params(node)

"One batch: flows, then `update_params`; rows have no missing values."
function juice_step!(pc, x, inertia, pseudocount)
    nodes = Juice.linearize(pc, Juice.ProbCircuit)
    trained = filter(!Juice.ismul, nodes)
    flows = IdDict(node => zeros(length(log_params(node))) for node in trained)
    foreach(row -> add_flows!(flows, pc, nodes, row), eachcol(x))
    for node in trained
        flow, logs = flows[node], log_params(node)
        fresh = (flow .+ pseudocount / length(flow)) ./ (sum(flow) + pseudocount)
        logs .= log.(inertia .* exp.(logs) .+ (1 - inertia) .* fresh)
    end
    return pc
end

"Add what one row hands to every edge and leaf."
function add_flows!(flows, pc, nodes, row)
    logs, through = IdDict{Any,Float64}(), IdDict{Any,Float64}()
    value(node) = row[only(Juice.randvars(node))] + 1
    for node in nodes
        through[node] = 0
        logs[node] = if Juice.isinput(node)
            log_params(node)[value(node)]
        elseif Juice.ismul(node)
            sum(child -> logs[child], Juice.inputs(node))
        else
            below = [logs[child] for child in Juice.inputs(node)]
            log(sum(exp.(log_params(node) .+ below)))
        end
    end
    through[pc] = 1
    for node in Iterators.reverse(nodes)
        if Juice.isinput(node)
            flows[node][value(node)] += through[node]
            continue
        end
        for (k, child) in enumerate(Juice.inputs(node))
            share = through[node]
            if !Juice.ismul(node)
                share *= exp(log_params(node)[k] + logs[child] - logs[node])
                flows[node][k] += share
            end
            through[child] += share
        end
    end
    return flows
end

@testset "the same hidden tree trained here and by Juice's steps" begin
    circuit = hclt(random_tree(6, 1), 3, 4; seed = 1)
    x = random_rows(fill(4, 6), 60, 14; missing_share = 0)
    pc = to_juice(circuit)
    for _ = 1:3, batch in (1:20, 21:40, 41:60)
        juice_step!(pc, x[:, batch], 0.9, 0.1)
    end
    ours = JuiceBridge.fit(
        circuit,
        x;
        epochs = 3,
        batch_size = 20,
        step_size = Schedule(0.1, 0.1, :constant),
        order = repeat(1:60, 1, 3),
    )
    @test agree(log_likelihood(ours.circuit, x)[1, :], juice_logs(pc, x))
    found, expected = parameter_columns(from_juice(pc)), parameter_columns(ours.circuit)
    @test length(found) == length(expected)
    @test all(maximum(abs, a .- b) < 1e-5 for (a, b) in zip(found, expected))
    # The steps have done something: their start is elsewhere.
    @test !agree(log_likelihood(circuit, x)[1, :], juice_logs(pc, x))
end
