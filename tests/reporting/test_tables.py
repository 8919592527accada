def test_the_list_of_models_names_their_licence(run_slotlab):
    status, printed, err = run_slotlab("models")
    assert status == 0, err
    assert "licence of the weights: Apache-2.0" in printed
